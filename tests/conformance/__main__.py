"""
Run the cases against supervisord, write down what came of it, and make docs/conformance.md.

    python -m tests.conformance PATH/TO/bin/supervisord
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance import page
from tests.e2e.harness import ROOT


def main(supervisord: str) -> int:
    """Failures of supervisord are what is asked for; only not finding out is one."""
    version = subprocess.run([supervisord, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "4", "--tb=no"]
        done = subprocess.run(
            [*pytest, "tests/conformance", "--ignore", "tests/conformance/test_catalogue.py", f"--junitxml={report}"],
            check=False,
            cwd=ROOT,
            env={**os.environ, "CONFORMANCE_SUPERVISORD": str(Path(supervisord).absolute())},
        )
        if done.returncode not in {0, 1}:
            return done.returncode
        results = {"version": version, "tests": page.read_results(report)}
    page.RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    page.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
