"""The routes, a blueprint for each subject."""
