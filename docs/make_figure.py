"""Draw docs/figures/overview.svg, the first figure of the README, from a finished study.

make demo && .venv/bin/python docs/make_figure.py demo/synthetic-tissue
"""

import sys
from pathlib import Path

import matplotlib

from roteq.files import load_json
from roteq.report.pictures import overview_figure
from roteq.results import Study

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "roteq"})
out = Path(__file__).parent / "figures" / "overview.svg"
out.parent.mkdir(exist_ok=True)
figure = overview_figure(load_json(Study, Path(sys.argv[1]) / "study.json"))
figure.savefig(out, metadata={"Date": None}, facecolor="white")
