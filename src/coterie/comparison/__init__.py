"""Which training gives the best network on one's own images, at equal cost: a study that plans itself."""
