#!/usr/bin/python
"""Ask from the host itself whether the places that wheels come from answer. Changes nothing."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

DOCUMENTATION = r"""
---
module: tts_wheel_sources
short_description: Ask whether wheel directories and indexes answer
description:
  - A URL answers when a GET gives a status below 400; a directory when it holds at least one wheel.
options:
  sources: {description: Directories and URLs., type: list, elements: str, required: true}
  timeout: {description: Seconds for each URL., type: int, default: 20}
  ca_bundle: {description: "Certificates to trust, instead of the host's own.", type: path}
"""

RETURN = r"""
sources: {description: "Source -> empty, or what is wrong with it", type: dict, returned: always}
"""


def trouble(source: str, timeout: int, ca_bundle: str | None = None) -> str:
    """What is wrong with ``source`` as this host sees it; empty when nothing is."""
    if not source.startswith(("http://", "https://")):
        directory = Path(source)
        if not directory.is_dir():
            return "there is no such directory on the host"
        return "" if any(directory.glob("*.whl")) else "the directory holds no wheel"
    trusted = ssl.create_default_context(cafile=ca_bundle)
    # An index is a directory: without the slash some answer with a redirect, some with 404.
    request = urllib.request.Request(source.rstrip("/") + "/", headers={"User-Agent": "pip"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=trusted):  # noqa: S310 (the scheme was checked above)
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers with status {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def main() -> None:
    """Ansible's entry point."""
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 20},
            "ca_bundle": {"type": "path"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    asked = {source: trouble(source, wanted["timeout"], wanted["ca_bundle"]) for source in wanted["sources"]}
    module.exit_json(changed=False, sources=asked)


if __name__ == "__main__":
    main()
