import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `tests.fakes` can be imported
