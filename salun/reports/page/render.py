"""One self-contained HTML file: text escaped, scripts and styles named by their hashes, nothing loaded."""

import base64
import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from salun import __version__
from salun.experiments.records import numbers_only

_PLACE = "salun.reports.page"
_EXPORTED = "window.vegaEmbed = vegaEmbed;"
_NONE = "'none'"


@dataclass(frozen=True)
class Report:
    """A page that was written, and a line for each thing that it could not show."""

    path: Path
    notices: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own."""
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" width="100%" height="800" title="salun report"></iframe>'


@cache
def _library() -> str:
    """Bundle Vega-Lite and what it needs into one script."""
    import vl_convert

    return str(vl_convert.javascript_bundle(_EXPORTED))


def _asset(name: str) -> str:
    return (resources.files(_PLACE) / "templates" / name).read_text(encoding="utf-8")


def _source_of(text: str) -> str:
    """Name a script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def rendered(template: str, context: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> str:
    """Fill a template.

    Args:
        template: its name.
        context: what the template shows; every text in it is escaped.
        data: what the page's script reads; None of a page without scripts.

    Returns:
        The page.
    """
    environment = Environment(
        loader=PackageLoader(_PLACE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, scripts = _asset("page.css"), [] if data is None else [_library(), _asset("page.js")]
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_source_of, scripts)) or _NONE}",
        f"style-src {_source_of(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return environment.get_template(template).render(
        **context,
        data=numbers_only(data),
        style=Markup(style),  # noqa: S704 - ours
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - ours
        policy="; ".join(policy),
        version=__version__,
    )
