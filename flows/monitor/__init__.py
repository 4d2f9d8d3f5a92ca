"""What the last lesson and the app show: pages, data frames, charts, and why a run waits."""
