"""From an fp32 tower to one of fewer bits: recipes, calibration, rewrites they need."""
