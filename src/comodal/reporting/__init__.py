"""Tables, figures and the page. Reads run folders and results; imports neither torch nor matplotlib until something is drawn."""
