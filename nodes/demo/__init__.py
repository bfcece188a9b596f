"""A small model to try AdaCache on, its prompts, and its pictures."""
