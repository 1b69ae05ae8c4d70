"""One latent as a single file: it can be mailed, and opened by anybody, without a server and without a network."""

import base64
import hashlib

from markupsafe import Markup

from .explored import Explored
from .files import asset_files
from .links import Links
from .pages.latent import latent_values
from .pages.latent_neighbours import SHOWN
from .rendering import STYLES, Page, render

_STYLES = (*STYLES, "latent.css")
_SCRIPT = "latent.js"


class NoLinks(Links):
    """Addresses of a page that stands alone: there is nothing to link to."""

    live = False

    def run(self) -> str:
        return ""

    def dictionary(self, slug: str, **query: object) -> str:
        return ""

    def latent(self, slug: str, latent: int) -> str:
        return ""

    def search(self, **query: object) -> str:
        return ""

    def compare(self, first: str | None = None, second: str | None = None) -> str:
        return ""

    def circuit(self, task: str | None = None) -> str:
        return ""

    def prompt(self, **query: object) -> str:
        return ""

    def asset(self, name: str) -> str:
        return ""

    def rows(self, slug: str) -> str:
        return ""


def one_page(explored: Explored, slug: str, latent: int) -> str:
    """The whole document of one latent, styles and script inside.

    Its policy lets it load nothing, and run nothing but the script that it has by its hash. Neighbours have the
    contexts that tell them apart, as there is no server to ask for them. Raises `NotThere`, as the page itself does.

        Path("latent.html").write_text(one_page(Explored("runs/demo"), "topk-k_16-x4", 7), "utf-8")
    """
    links = NoLinks()
    style = "".join(asset_files()[name].body.decode("utf-8") for name in _STYLES)
    script = asset_files()[_SCRIPT].body.decode("utf-8")
    allowed = f"style-src {_hashed(style)}; script-src {_hashed(script)}"
    policy = f"default-src 'none'; {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
    values = latent_values(explored, links, slug, latent, apart=SHOWN)
    title = f"Latent {latent:,} of {values['shelf'].name}"
    inside = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return render(Page("latent_mailed.html", title, "dictionary", {**values, **inside}), explored, links)


def _hashed(text: str) -> str:
    """The source expression that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
