"""Measurements against the raw model, against the peers and on real images; the results go to RESULTS.md."""

import datetime
import os
import platform
import re
from pathlib import Path

from keras_explain.engine import versions

RESULTS = Path(__file__).with_name("RESULTS.md")


def record(title, lines, device="no GPU"):
    """Print a section and put it into RESULTS.md, in the place of the section of that title."""
    machine = f"{datetime.date.today()}, {os.cpu_count()} cores of {platform.machine()}, {device}. "
    machine += ", ".join(f"{name} {version}" for name, version in versions().items())
    text = "\n".join([f"## {title}", "", machine, "", *lines]) + "\n"
    old = RESULTS.read_text("utf-8") if RESULTS.exists() else "# Results\n"
    sections = re.split(r"\n(?=## )", old.rstrip("\n"))
    kept = [section.rstrip("\n") for section in sections if not section.startswith(f"## {title}\n")]
    RESULTS.write_text("\n\n".join([*kept, text]), "utf-8")
    print(text)
