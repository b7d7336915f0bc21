"""Does a frame show the state that it should?

Near focus, where a verification is taken, the theory of the refinement trusts its windows least and
would let any frame pass. The map of the latents was trained there: it is asked whether the frame's
latents are those of the state that is expected, or of another one nearby.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import answers, basins, em, observation, unknowns
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import Estimate
from jaxcal.basins import STATES
from jaxcal.model import Model
from jaxcal.observation import Observation
from jaxcal.optics import Optics

ELSEWHERE_NM = {1: 30.0, 2: 200.0}  # standard deviation of where else it might be, by order
EXACTLY = 1e-3  # of that, where it is expected


def state_nm(answer: Estimate, knobs_nm) -> np.ndarray:
    """State (7,), nm, of STATES at a setting (P,), nm, by a refined estimate: of the knobs what is
    left there, zero at the setting that tunes."""
    problem = answer.refinement.problem
    found = unknowns.decode(answer.refinement.solutions[0].point.z, problem)
    knobs = dict(zip(answer.knob_names, answers.left(answer, knobs_nm)[0], strict=True))
    return np.array([knobs[name] if name in knobs else found.state[problem.free.index(name)]
                     for name in STATES])


def log_odds_elsewhere(seen: Observation, state_nm, optics: Optics, model: Model, *,
                       candidates: int) -> float:
    """Log odds that a frame shows a state about the expected one (7,), nm, rather than that itself.

    The frame's likelihood, nuisances and gap integrated out, averaged over ``candidates`` states
    drawn about the expected one (ELSEWHERE_NM), over that at the expected one.

    Args:
        seen: usable. candidates: as many as of the loop's EM, whose compiled program then serves.
    """
    latents = np.asarray(model.encode(observation.log_images([seen])))
    radius, _ = observation.camera_of([seen])
    data = basins.experiment(latents, np.array([state_nm]), STATES,
                             observation.measured_optics(optics, radius),
                             length=basins.PADDED)
    parameters = em.initial_parameters(model.map, data)
    sd = jnp.asarray([ELSEWHERE_NM[n] for n in ORDER[indices(STATES)]], jnp.float32)

    def about(sd):
        return em.begin(jax.random.key(0), parameters, data._replace(prior_sd=sd), model.map,
                        candidates).log_likelihood

    # the expected state is asked in the same way: one compiled program, which EM has already
    there, here = about(sd), about(EXACTLY * sd)
    return float(jax.nn.logsumexp(there) - jax.nn.logsumexp(here))
