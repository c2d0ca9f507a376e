"""An OpenAI-compatible server that corrects what another one answers."""
