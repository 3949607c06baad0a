"""Large bytes under their digest: images, weights, message bodies."""
