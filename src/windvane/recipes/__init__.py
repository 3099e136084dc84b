"""Recipes: each is a method's story, top to bottom. Read these first."""
