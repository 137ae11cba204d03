"""What a shell offers when TAB is pressed: kinds of arguments, names that were seen, and the scripts of the shells."""
