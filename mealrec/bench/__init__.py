"""Evidence: result tables on any dataset folder, by one command, resumable and with intervals."""
