"""The unlearning methods, one file each; a file added here is a method added."""
