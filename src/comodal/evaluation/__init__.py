"""What predictions are worth: metrics with stated conventions, all subsets in one table, intervals and tests over patients."""
