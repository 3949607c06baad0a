"""The whole loop against TRL's GRPOTrainer: the same tiny model, images, lengths and rewards."""
