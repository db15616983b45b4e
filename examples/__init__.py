"""Programs that show the library at work; the README says how to run each."""
