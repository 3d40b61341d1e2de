"""Pictures as SVG, and the colours that names have in all of them."""
