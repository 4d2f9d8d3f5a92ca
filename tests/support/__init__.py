"""What several test modules share, by subject. Fixtures are in `conftest.py`."""
