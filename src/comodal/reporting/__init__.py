"""Tables, figures and the page. Reads run folders only; torch and matplotlib wait until something is drawn."""
