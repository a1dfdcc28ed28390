"""Many runs: methods x seeds x folds, resumable run by run, with paired statistics."""
