"""What a run is to do, as validated data."""
