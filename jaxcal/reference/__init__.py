"""NumPy twins of the numerical core, in float64, written from the equations.

Same names and signatures as the modules of jaxcal they stand beside, nothing of JAX and nothing
of jaxcal imported: they are what the tests compare with, and a way to read the equations plainly.
They are slow, take one sample at a time and do not check their input.
"""
