"""Does a frame show the state that it should?

Near focus, where a verification is taken, the theory of the refinement trusts its windows least and
would let any frame pass. The map of the latents was trained there: it is asked whether the frame's
latents are those of the state that is expected, or of another one nearby.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import em, estimation, unknowns
from jaxcal.aberrations import ORDER, indices
from jaxcal.estimation import STATES, Estimate, Observation
from jaxcal.model import Model
from jaxcal.optics import Optics

ELSEWHERE_NM = {1: 30.0, 2: 200.0}  # standard deviation of where else it might be, by order
EXACTLY = 1e-3  # of that, where it is expected


def expected_state_nm(answer: Estimate, knobs_nm) -> np.ndarray:
    """State (7,), nm, of STATES at a knob setting (P,), nm, by a refined estimate."""
    problem = answer.refinement.problem
    found = unknowns.decode(answer.refinement.solutions[0].point.z, problem)
    state = np.array([found.state[problem.free.index(name)] for name in STATES])
    moved = answer.actuator @ np.asarray(knobs_nm, float)
    for k, name in enumerate(answer.knob_names):
        if name in STATES:
            state[STATES.index(name)] += moved[k]
    return state


def log_odds_elsewhere(seen: Observation, state_nm, optics: Optics, model: Model, *,
                       candidates: int = estimation.START.candidates, length: int = 1) -> float:
    """Log odds that a frame shows a state about the expected one (7,), nm, rather than that itself.

    The frame's likelihood, nuisances and gap integrated out, averaged over ``candidates`` states
    drawn about the expected one (ELSEWHERE_NM), over that at the expected one. Mostly negative
    where the frame is what it should be, above 15 where a knob is off by more than 100 nm.

    Args:
        seen: usable; length: of the padded experiment, so that the loop's compiled program serves.
    """
    latents = np.asarray(model.encode(estimation.log_images([seen])))
    radius, _ = estimation.camera_of([seen])
    data = estimation.experiment(latents, np.array([state_nm]), STATES,
                                 estimation.measured_optics(optics, radius), length=length)
    parameters = em.initial_parameters(model.map, data)
    sd = jnp.asarray([ELSEWHERE_NM[n] for n in ORDER[indices(STATES)]], jnp.float32)

    def about(sd):
        return em.begin(jax.random.key(0), parameters, data._replace(prior_sd=sd), model.map,
                        candidates).log_likelihood

    there, here = about(sd), about(EXACTLY * sd)
    return float(jax.nn.logsumexp(there) - jax.nn.logsumexp(here))
