"""What decodes: an engine knows only rows and tokens, never prompts, languages or users."""
