"""Names and numbers as people read them, and text made safe for HTML."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]

METHODS = {
    "tied_l1": "tied L1",
    "untied_l1": "untied L1",
    "p_anneal": "p-annealed L1",
    "gated": "gated",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "transcoder": "transcoder",
    "neurons": "neurons",
    "random": "random directions",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
}
BASELINES = ("pca", "ica", "nmf", "neurons", "random")
"""Methods that sparse autoencoders are compared with; every other method counts as an autoencoder."""

_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # marks that turn the direction of writing
_SAFE = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: "\u2421"}
_SAFE |= {code: f"⟨U+{code:04X}⟩" for code in _TURNING}
_VISIBLE = {**_SAFE, 9: "→\t", 10: "⏎\u200b"}  # a line end is shown, and may wrap, but does not break the line


def escape(value: Any) -> str:
    """Text for HTML, in an element or in a quoted attribute.

    Control characters and marks that turn the writing become visible; what cannot be encoded becomes '?'.
    """
    return html.escape(str(value).translate(_SAFE).encode("utf-8", "replace").decode(), quote=True)


def escape_token(text: str) -> str:
    """A token for HTML, with line ends and tabs made visible too."""
    return escape(text.translate(_VISIBLE))


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Autoencoders before baselines, by method, width and L0."""

    def key(e: Entry) -> tuple[Any, ...]:
        baseline = is_baseline(e)
        method = BASELINES.index(e["method"]) if baseline else str(e["method"])
        return (where(e), baseline, str(method), e["n_latents"], e["k"] is None, e["l0"]["value"] or 0.0)

    return sorted(entries, key=key)


def where(entry: Entry) -> str:
    """The site a dictionary is measured at; for one of two sites, both. Only entries of one place are comparable.

    >>> where({"site": "mlp_in.1", "output_site": "mlp_out.1"})
    'mlp_in.1 → mlp_out.1'
    """
    output = entry.get("output_site")
    return str(entry["site"]) if output is None else f"{entry['site']} → {output}"


def is_baseline(entry: Entry) -> bool:
    return entry["method"] in BASELINES


def kind(entry: Entry) -> str:
    """The method and its form, e.g. 'top-k PCA'."""
    name = METHODS.get(entry["method"], str(entry["method"]).replace("_", " "))
    return f"top-k {name}" if is_baseline(entry) and entry["k"] is not None else name


def label(entry: Entry) -> str:
    """What a dictionary is, without its own name: method, form and, of autoencoders, the number of latents.

    >>> label({"method": "pca", "k": 16, "n_latents": 256})
    'top-k PCA'
    >>> label({"method": "topk", "k": 16, "n_latents": 1024})
    'TopK, 1,024'
    """
    return kind(entry) if is_baseline(entry) else f"{kind(entry)}, {entry['n_latents']:,}"


def number(value: float | None, digits: int = 3) -> str:
    """About `digits` significant digits, never an exponent for what people meet; '–' for an unknown number.

    Nothing but 0 is shown as 0: what the digits cannot show has four decimals, or is said to be smaller.

    >>> [number(v) for v in (0.12345, 15.98, 1234.5, 0.0, 0.0003, 0.00001, None)]
    ['0.123', '16.0', '1,234', '0', '0.0003', '<0.0001', '–']
    """
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4:
        return "<0.0001" if value > 0 else ">−0.0001"
    text = f"{size:,.0f}" if size >= 1000 else f"{size:.{decimals(size, digits)}f}"
    text = text if float(text.replace(",", "")) else f"{size:.4f}"
    return text if value > 0 else f"−{text}"


def decimals(size: float, digits: int) -> int:
    """Decimals that show `digits` significant digits of a number of this size, at most 4."""
    whole = len(str(int(size))) if size >= 1 else 0
    return max(0, min(4, digits - whole))


def interval(estimate: Mapping[str, Any] | None, digits: int = 3) -> str:
    """'[low, high]', or '' where there is no interval or it is as good as a point."""
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return ""
    low, high = number(estimate["low"], digits), number(estimate["high"], digits)
    return "" if low == high else f"[{low}, {high}]"


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (0.31, 12.3, 75, 3700)]
    ['0.3 s', '12 s', '1 min 15 s', '1 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in MiB or GiB."""
    mib = count / 2**20
    return f"{mib / 1024:.2f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def percent(share: float) -> str:
    """Two digits, and as many more as tell a share from nothing and from all.

    >>> [percent(s) for s in (0.5, 0.012, 0.00034, 0.9998, 1.0, 1e-9)]
    ['50%', '1.2%', '0.034%', '99.98%', '100%', '<0.001%']
    """
    points = 100 * share
    if 0 < points < 0.001:
        return "<0.001%"
    if 99.5 <= points < 100:
        return f"{points:.4g}%" if points < 99.995 else ">99.99%"
    return f"{points:.0f}%" if points >= 10 or points == 0 else f"{points:.2g}%"


def and_list(items: list[str]) -> str:
    """'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
