"""A harvest that is killed, at any moment, is taken up to the same bytes as one that was not."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
"""Forks children that harvest and are killed; prints how many times each kind of kill took place."""
import os, random, resource, signal, sys, time, traceback
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from activation_world import SITES, RunningMean, letters
from sparsescope.activations import harvest
from sparsescope.errors import StorageError

folder = Path(sys.argv[1])


def run(out, pause=0.0):
    model = RunningMean()
    read = model.read
    def slow(*args):
        time.sleep(pause)
        return read(*args)
    model.read = slow
    return harvest(model, letters(), SITES, tokens=1500, out=out, context=16, batch=4, shard_tokens=256, resume=True)


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def child(work):
    """The exit status of `work` in a child, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except StorageError:
            code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying(name, count):
    """Killed at the `count`-th call of a function of `os`, before or after it has its effect."""
    def work():
        real, calls = getattr(os, name), [0]
        def patched(*args):
            calls[0] += 1
            if calls[0] == count and count % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args)
            if calls[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(os, name, patched)
        run(out)
    return work


out = folder / "straight"
assert wait(child(lambda: run(out))) == 0
expected = content(out)

# Each child resumes what the one before left, and is killed one call later than that one was.
for name in ("fsync", "replace", "rename"):
    out = folder / name
    deaths = 0
    while (code := wait(child(dying(name, deaths + 1)))) == -signal.SIGKILL:
        deaths += 1
    assert code == 0, code
    assert content(out) == expected, name
    print(name, deaths)

# Kills by the clock.
source, deaths = random.Random(0), 0
for attempt in range(3):
    out = folder / f"clock{attempt}"
    while True:
        pid = child(lambda: run(out, pause=0.01))
        if deaths < 4 * (attempt + 1):
            time.sleep(source.uniform(0.01, 0.2))
            os.kill(pid, signal.SIGKILL)
        code = wait(pid)
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        deaths += 1
    assert content(out) == expected, attempt
print("clock", deaths)

# A file system that refuses files beyond a size, as a full one would.
def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))
    run(folder / "limited")

out = folder / "limited"
assert wait(child(limited)) == 3
assert not out.exists() and not list(folder.rglob("*.tmp"))
assert wait(child(lambda: run(out))) == 0
assert content(out) == expected
print("limit 1")
'''


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="kills forked children")
def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "src"
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=280,
        env={"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    deaths = dict(line.split() for line in done.stdout.splitlines())
    assert int(deaths["fsync"]) > 10
    assert int(deaths["replace"]) > 10
    assert int(deaths["rename"]) == 1
    assert int(deaths["clock"]) >= 3
