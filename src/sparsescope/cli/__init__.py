"""The command line: parse, call the library, print.

Exit codes: 0 done, 1 the run failed, 2 the request was wrong. Without --debug no traceback is shown.
"""

from .main import main as main
