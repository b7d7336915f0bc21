"""What people tune a microscope with today, behind one interface, to compare jaxcal with.

    bayesopt          Bayesian optimisation of a scalar image quality
    regression        a supervised network, its answers combined by least squares
    scalar_em         jaxcal's EM with a scalar measure in place of the latents
    particle_filter   a particle filter over the state with the simulated map alone
    published         the published form: latents, a symmetric process without simulated mean

A method that chooses its frames is a function ``tune(microscope, frames, seed)`` that yields an
:class:`~benchmarks.baselines.interface.Answer` after each frame; one that takes a given series is
``estimate(seen, count, seed)``, the answer from the first ``count`` frames of a
:class:`~benchmarks.baselines.interface.Seen`. What they need beforehand they train or fit on
simulated instruments with seeds from 20000 on, into the ignored folder ``build/``.
"""
