# SPDX-License-Identifier: Apache-2.0
"""The tests here share modules that lie beside them and in the folder above."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
