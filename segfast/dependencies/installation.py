"""Where this segfast was installed from, and what installs it from there again.

No package index has it: the `segfast` that is found there is another project with the same import name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib import metadata

DISTRIBUTION = "segfast-engine"
FOREIGN = "segfast"
# The folder that holds `segfast`: a checkout, or `site-packages`.
HOME = Path(__file__).resolve().parents[2]


def install(extra: str = "", *, newer: bool = False) -> str:
    """What to do, in words that end a message, to have this segfast with an extra or in a newer version.

    Read from the installation's record of its origin (PEP 610).
    """
    wanted = f"[{extra}]" if extra else ""
    if (HOME / "setup.py").is_file():
        return _from_checkout(wanted, newer)
    record = _record(next((found for found in _distributions(DISTRIBUTION) if _folder(found) == HOME), None))
    url, vcs = str(record.get("url", "")), _table(record, "vcs_info")
    if vcs:
        return _from_repository(url, vcs, str(record.get("subdirectory", "")), wanted, newer)
    if url.startswith("file:"):
        return _from_path(_local(url), wanted, newer)
    if newer:
        return f"install a newer segfast wheel{f' than {url}' if url else ''}"
    if url:
        return f"pip install {shlex.quote(f'{DISTRIBUTION}{wanted} @ {url}')}"
    return f"install the segfast wheel you installed again{f', with {wanted}' if wanted else ''}"


def foreign() -> str | None:
    """What is wrong, and its remedy, where another distribution has our import name in this environment."""
    for found in _distributions(FOREIGN):
        if (HOME / "setup.py").is_file() and _folder(found) == HOME:
            continue  # a checkout's own, from before its name was taken
        return (
            f"{_described(found)} is another distribution with the import name of {DISTRIBUTION}, and each overwrites "
            f"the other; pip uninstall -y {FOREIGN}, then {install()}"
        )
    return None


def _from_checkout(wanted: str, newer: bool) -> str:
    if any(_editable(_record(found)) for found in _distributions(DISTRIBUTION)):
        command = f"pip install -e {shlex.quote(f'{HOME}{wanted}')}"
    else:
        command = f"cd {shlex.quote(str(HOME))} && pip install -e {shlex.quote(f'.{wanted}')}"
    return f"update the checkout in {HOME} (git pull), then {command}" if newer else command


def _from_repository(url: str, vcs: Mapping[str, object], subdirectory: str, wanted: str, newer: bool) -> str:
    address = f"{vcs.get('vcs', 'git')}+{url}"
    if not newer and (revision := vcs.get("commit_id") or vcs.get("requested_revision")):
        address += f"@{revision}"
    if subdirectory:
        address += f"#subdirectory={subdirectory}"
    return f"pip install {'--upgrade ' if newer else ''}{shlex.quote(f'{DISTRIBUTION}{wanted} @ {address}')}"


def _from_path(path: Path, wanted: str, newer: bool) -> str:
    """From a wheel's file, or a folder that was copied."""
    command = f"pip install {shlex.quote(f'{path}{wanted}')}"
    if newer and path.suffix == ".whl":
        return f"install a newer segfast wheel than {path}"
    if newer:
        return f"update the checkout in {path} (git pull), then {command}"
    return command if path.exists() else f"{command} (which is gone: bring it back first)"


def _editable(record: Mapping[str, object]) -> bool:
    """Whether an installation is this checkout, in place."""
    return bool(_table(record, "dir_info").get("editable")) and _local(str(record.get("url", ""))).resolve() == HOME


def _local(url: str) -> Path:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return Path(url2pathname(urlsplit(url).path))


def _folder(found: metadata.Distribution) -> Path:
    return Path(str(found.locate_file(""))).resolve()


def _distributions(name: str) -> list[metadata.Distribution]:
    """Those of a name, of which damaged metadata may hide some."""
    from importlib import metadata  # only now: an Engine that fails at nothing does not wait for it

    try:
        return list(metadata.distributions(name=name))
    except Exception:  # a remedy must not fail
        return []


def _described(found: metadata.Distribution) -> str:
    try:
        return f"{FOREIGN} {found.version} ({found.metadata['Summary']})"
    except Exception:  # no metadata that can be read
        return FOREIGN


def _record(found: metadata.Distribution | None) -> dict[str, object]:
    """The installation's `direct_url.json`, empty where there is none that can be read."""
    try:
        record = json.loads((found.read_text("direct_url.json") if found else None) or "{}")
    except (OSError, ValueError):
        record = {}
    return record if isinstance(record, dict) else {}


def _table(record: Mapping[str, object], key: str) -> dict[str, object]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}
