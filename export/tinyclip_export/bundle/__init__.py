"""The files of a bundle other than its towers: manifest, hub files, optional models."""
