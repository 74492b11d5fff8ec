"""What a bundle folder holds beside its towers: manifest, hub files, optional models."""
