"""The report of a run or an evaluation: one HTML file without network, script or font."""
