"""The facts about a dictionary as a notebook shows them."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Dictionary

_STYLE = (
    ".ssdict.ssdict{display:inline-block;padding:8px 14px;border:1px solid #8888;border-radius:8px;text-align:left;"
    "font:14px/1.5 ui-sans-serif,system-ui,sans-serif;color:inherit}"
    ".ssdict.ssdict b{display:block;margin-bottom:2px;overflow-wrap:anywhere}"
    ".ssdict.ssdict table{margin:0;border:0;border-collapse:collapse;font-size:13px;color:inherit}"
    ".ssdict.ssdict tr,.ssdict.ssdict tbody tr:nth-child(n){background:none;border:0}"
    ".ssdict.ssdict th,.ssdict.ssdict td{padding:1px 18px 1px 0;border:0;text-align:left;vertical-align:top;"
    "font-weight:400;white-space:normal;overflow-wrap:anywhere;max-width:60ch}"
    ".ssdict.ssdict th{opacity:.7}"
)


def facts_table(dictionary: "Dictionary") -> str:
    """HTML: method, site, sizes, sparsity and where it was loaded from. Colours are those of the page around it."""
    about = dictionary.provenance
    site = about.site if about.output_site is None else f"{about.site} → {about.output_site}"
    width = dictionary.d_in if dictionary.d_in == dictionary.d_out else f"{dictionary.d_in} → {dictionary.d_out}"
    sparsity = {"k": about.k, "l1": about.l1, "target L0": about.target_l0}
    facts = {
        "method": dictionary.method,
        "site": site,
        "latents": f"{dictionary.n_latents:,}",
        "width": width,
        **{name: None if value is None else f"{value:g}" for name, value in sparsity.items()},
        "seed": about.seed,
        "type": f"{dictionary.dtype} on {dictionary.device}".removeprefix("torch."),
        "model": about.model,
        "path": about.path,
    }
    rows = "".join(
        f"<tr><th>{name}</th><td>{_escape(value)}</td></tr>" for name, value in facts.items() if value is not None
    )
    title = _escape(about.name or type(dictionary).__name__)
    return f'<div class="ssdict"><style>{_STYLE}</style><b>{title}</b><table><tbody>{rows}</tbody></table></div>'


def _escape(value: object) -> str:
    """Text for HTML; what cannot be printed, such as marks that turn the writing, is written as a code."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(value))
    return html.escape(shown, quote=True)
