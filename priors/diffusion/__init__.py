"""A latent diffusion prior (MeLoDy): velocities of an angle per frame, by a dual-path network."""
