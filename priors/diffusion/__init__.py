"""A latent diffusion prior (MeLoDy): a dual-path network predicts velocities, with one diffusion angle per frame."""
