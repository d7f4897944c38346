"""The report of a run or an evaluation: one HTML file that needs no network, script or font."""
