"""What this machine is and could do at best. Imports storage, errors and manifest's fields."""
