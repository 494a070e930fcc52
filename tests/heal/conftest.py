# SPDX-License-Identifier: Apache-2.0
"""The tests here share modules that lie beside them, and need torch, without which there is nothing to test."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
