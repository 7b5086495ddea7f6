"""`katlit run`: all stages of a recipe from one file."""
