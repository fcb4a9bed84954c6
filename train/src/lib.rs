//! CLIP training: objective, optimiser, schedule, data order, checkpoints.
