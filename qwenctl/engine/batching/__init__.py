"""Many requests at once in one context: slots, the scheduler, and the prefix cache."""
