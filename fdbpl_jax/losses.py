"""The losses of FDBPL (arXiv 2505.18053) and of the methods it is measured against.

Region-aware dual prompts (RADP), prompt-cascaded differences (PCD), and the Kullback-Leibler divergences to a teacher
whose labels were truncated to their k largest classes. KDPL (arXiv 2407.03056) and CoOp (2109.01134) use the same parts;
what holds prompts near the frozen model is in `regularisers`. The formulas of RADP and PCD are this project's own reading
of the method, written out in full in each docstring.

Shapes: B regions, C classes, K stored classes, D embedding width. Every term returns (sum, count), so that padded and
accumulated batches stay exact; `mean` divides at the very end. Everything is computed in float32 on `log_softmax`.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Pair = tuple[Float[Array, ""], Float[Array, ""]]

# Below this squared length two classes have the same difference vector and a direction between them means nothing.
_SMALLEST_SQUARE = 1e-12
_SMALLEST_COUNT = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The switches of the loss; every one is written into the run's record.

    Attributes:
      dual: learn a negative context too. False removes L_neg, L_dis and L_pcd.
      weight: how informative a region is: "entropy" of the teacher, its "maxprob", or "none" (every region counts 1).
      weight_range: (low, high); the weight is stretched to clip((w - low) / (high - low), 0, 1).
      pcd: "hinge" or "off". The sum over all ordered pairs, which a naive reading gives, is identically zero.
      pcd_unit: divide each pair's margin by the length of its difference vector.
      margin: margin m of the hinge, on cosines that are not multiplied by the logit scale.
      kl: weights of the forward KL(teacher || student) and of the reverse KL.
      lam_neg, lam_dis, lam_pcd: weights of the three terms beside L_pos.
      recover: where a truncated label's missing mass goes: "spread" evenly over the other classes, or "renormalise"
        (dropped; then only the forward KL is defined).
      kgcoop_weight: weight of KgCoOp's distance between learned and template features.
      prograd_lambda: share of the opposing gradient that ProGrad takes out.
      promptsrc_text, promptsrc_image, promptsrc_logits: weights of PromptSRC's three terms.
      kd_weight: PromptKD's, of the KL divided by the number of classes.
    """

    dual: bool = True
    weight: str = "entropy"
    weight_range: tuple[float, float] = (0.0, 1.0)
    pcd: str = "hinge"
    pcd_unit: bool = False
    margin: float = 0.2
    kl: tuple[float, float] = (0.5, 0.5)
    lam_neg: float = 1.0
    lam_dis: float = 1e-3
    lam_pcd: float = 0.1
    recover: str = "spread"
    kgcoop_weight: float = 8.0
    prograd_lambda: float = 1.0
    promptsrc_text: float = 25.0
    promptsrc_image: float = 10.0
    promptsrc_logits: float = 1.0
    kd_weight: float = 1000.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """The teacher's labels of B regions: dense (`index` and `rest` are None) or the K largest classes of each.

    Attributes:
      logp: (B, C) in class order, or (B, K) descending: log-probabilities after the full softmax.
      entropy: (B,) entropy of the full softmax divided by log C.
      index: (B, K) the classes of `logp`.
      rest: (B,) log of the probability that the K classes leave.
    """

    logp: Float[Array, "B K"]
    entropy: Float[Array, "B"]
    index: Int[Array, "B K"] | None = None
    rest: Float[Array, "B"] | None = None


def mean(pair: Pair) -> Float[Array, ""]:
    """The mean of a (sum, count) pair; 0 where nothing was counted."""
    total, count = pair
    return total / jnp.maximum(count, _SMALLEST_COUNT)


def _full(x: Array, like: Array | None = None) -> Array:
    """At least float32; with `like`, in the precision of that array."""
    wide = (x if like is None else like).dtype == jnp.float64
    return x.astype(jnp.float64 if wide else jnp.float32)


def _masked(values: Float[Array, "B"], mask: Float[Array, "B"]) -> Pair:
    return jnp.sum(mask * values), jnp.sum(mask)


def dense_labels(logits: Float[Array, "B C"]) -> SoftLabels:
    """The labels of a teacher that is at hand: log-softmax of its logits (already times its scale)."""
    logp = jax.nn.log_softmax(_full(jax.lax.stop_gradient(logits)))
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1) / math.log(logits.shape[-1])
    return SoftLabels(logp=logp, entropy=entropy)


def top_class(labels: SoftLabels) -> Int[Array, "B"]:
    """The teacher's arg-max class of each region; ties go to the lower index."""
    if labels.index is None:
        return jnp.argmax(labels.logp, axis=-1).astype(jnp.int32)
    return labels.index[:, 0]


def informativeness(labels: SoftLabels, config: LossConfig, classes: int) -> Float[Array, "B"]:
    """How much a region tells about its class, in [0, 1]: w = 1 - H(pT) / log C, or one of the switches.

    Args:
      labels: the teacher's labels.
      config: `weight` and `weight_range` are read.
      classes: C, at least 2.

    Returns:
      (B,) weights without gradient.

    Raises:
      ValueError: with fewer than two classes the entropy has no scale.
    """
    if classes < 2:
        raise ValueError(
            f"the weight 1 - H / log C needs at least 2 classes, but the class list has {classes}"
        )
    if config.weight == "none":
        return jnp.ones_like(_full(labels.entropy))
    if config.weight == "entropy":
        weight = 1.0 - _full(labels.entropy)
    else:
        largest = jnp.exp(jnp.max(_full(labels.logp), axis=-1))
        weight = (largest - 1.0 / classes) / (1.0 - 1.0 / classes)
    low, high = config.weight_range
    return jax.lax.stop_gradient(jnp.clip((weight - low) / (high - low), 0.0, 1.0))


def label_kls(
    labels: SoftLabels, logits: Float[Array, "B C"], recover: str = "spread"
) -> tuple[Float[Array, "B"], Float[Array, "B"] | None]:
    """KL(q || p) and KL(p || q) between recovered teacher labels q and the student's softmax p.

    Truncated labels are recovered without forming a (B, C) array: with l = log_softmax(z), S the stored classes,
    m = C - K others that share the remaining mass evenly (rho each),

      KL(q || p) = sum_S q_j (log q_j - l_j) + rho (m log rho - (sum_c l_c - sum_S l_j))
      KL(p || q) = sum_c p_c l_c - sum_S p_j (log q_j - log rho) - log rho

    where the last line is rearranged so that nothing cancels. Beyond the softmax's own row reductions that is O(K).

    Args:
      labels: dense or truncated labels.
      logits: student logits, already times the logit scale.
      recover: "spread", or "renormalise", which drops the remaining mass.

    Returns:
      (forward, reverse) in nats, (B,) each; reverse is None for "renormalise", where it would be infinite.
    """
    logits = _full(logits)
    log_p = jax.nn.log_softmax(logits)
    logp = _full(labels.logp, logits)
    if labels.index is None:
        # Rounded to float16 the stored probabilities do not sum to one: normalise them first.
        log_q = jax.nn.log_softmax(logp)
        forward = optax.losses.kl_divergence_with_log_targets(log_p, log_q)
        reverse = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
        return forward, (None if recover == "renormalise" else reverse)

    stored = jnp.take_along_axis(log_p, labels.index, axis=-1)
    others = logits.shape[-1] - labels.index.shape[-1]
    if others == 0 or recover == "renormalise":
        log_q = jax.nn.log_softmax(logp)
        forward = jnp.sum(jnp.exp(log_q) * (log_q - stored), axis=-1)
        if recover == "renormalise":
            return forward, None
        return forward, jnp.sum(jnp.exp(stored) * (stored - log_q), axis=-1)

    assert labels.rest is not None
    rest = _full(labels.rest, logits)
    normaliser = jax.nn.logsumexp(jnp.concatenate([logp, rest[:, None]], axis=-1), axis=-1)
    log_q = logp - normaliser[:, None]
    log_rho = rest - normaliser - math.log(others)
    tail = others * log_rho - (jnp.sum(log_p, axis=-1) - jnp.sum(stored, axis=-1))
    forward = jnp.sum(jnp.exp(log_q) * (log_q - stored), axis=-1) + jnp.exp(log_rho) * tail
    negative_entropy = jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    above = jnp.sum(jnp.exp(stored) * (log_q - log_rho[:, None]), axis=-1)
    return forward, negative_entropy - above - log_rho


def positive_term(
    labels: SoftLabels,
    logits: Float[Array, "B C"],
    weight: Float[Array, "B"],
    mask: Float[Array, "B"],
    config: LossConfig,
) -> Pair:
    """L_pos = mean_r w_r (a KL(pT || p+) + b KL(p+ || pT)), (a, b) = config.kl.

    With w = 1 and (1/2, 1/2) it is KDPL's loss (arXiv 2407.03056). The mean runs over the real regions, not over sum(w).
    """
    forward, reverse = label_kls(labels, logits, config.recover)
    divergence = config.kl[0] * forward
    if reverse is not None:
        divergence = divergence + config.kl[1] * reverse
    return _masked(weight * divergence, mask)


def negative_term(
    logits: Float[Array, "B C"], weight: Float[Array, "B"], mask: Float[Array, "B"]
) -> Pair:
    """L_neg = mean_r (1 - w_r) KL(p- || uniform): uninformative regions push the negative prompt to know nothing."""
    log_p = jax.nn.log_softmax(_full(logits))
    uniform = jnp.full_like(log_p, -math.log(logits.shape[-1]))
    divergence = optax.losses.kl_divergence_with_log_targets(uniform, log_p)
    return _masked((1.0 - weight) * divergence, mask)


def distance_term(
    positive: Float[Array, "B C"],
    negative: Float[Array, "B C"],
    weight: Float[Array, "B"],
    mask: Float[Array, "B"],
) -> Pair:
    """L_dis = mean_r w_r cos(z+_r, z-_r): PCD's first order, the two prompts apart on informative regions."""
    cosine = optax.losses.cosine_similarity(
        _full(positive), _full(negative), epsilon=_SMALLEST_SQUARE
    )
    return _masked(weight * cosine, mask)


def pcd_term(
    regions: Float[Array, "B D"],
    positive_text: Float[Array, "C D"] | Float[Array, "B C D"],
    negative_text: Float[Array, "C D"],
    classes: Int[Array, "B"],
    weight: Float[Array, "B"],
    *,
    margin: float = 0.2,
    unit: bool = False,
) -> Pair:
    """L_pcd, PCD's second order: a hinge on every pair of regions whose classes differ.

    With d_c = t+_c - t-_c and s_ab = d_a - d_b, region i (class a) is asked to be more similar to s_ab than region j
    (class b), by the margin:

      hinge_ij = max(0, m - M_ij),   M_ij = (u_i - u_j) . (d_{y_i} - d_{y_j}) = G_ii + G_jj - G_ij - G_ji,
      G_ij = u_i . d_{y_j}

    averaged over the pairs with weight w_i w_j. M is symmetric, so the order of the two classes is irrelevant; the plain
    mean of s_ab over ordered pairs is identically zero and therefore not a loss.

    Args:
      regions: unit-norm image features u.
      positive_text: unit-norm text features t+; with a context per picture, region i's own, which are the ones in G_ij.
      negative_text: likewise t-.
      classes: the teacher's arg-max class of each region.
      weight: informativeness times mask.
      margin: m, on cosines without the logit scale.
      unit: divide M_ij by |s_ab|; without a context per picture.

    Returns:
      (sum of w_i w_j hinge_ij, sum of w_i w_j) over ordered pairs with different classes.
    """
    if positive_text.ndim == 3:
        own = jnp.einsum("bd,bcd->bc", _full(regions), _full(positive_text))
        gram = jnp.take(own - _full(regions) @ _full(negative_text).T, classes, axis=1)
        difference = None
    else:
        difference = _full(positive_text) - _full(negative_text)
        gram = jnp.take(_full(regions) @ difference.T, classes, axis=1)
    own = jnp.diagonal(gram)
    gap = own[:, None] + own[None, :] - gram - gram.T
    if unit:
        assert difference is not None
        chosen = jnp.take(difference, classes, axis=0)
        inner = chosen @ chosen.T
        length = jnp.diagonal(inner)
        square = length[:, None] + length[None, :] - inner - inner.T
        # Same-class pairs have length 0 and carry no weight; the square root must not see them, its slope is infinite.
        apart = square > _SMALLEST_SQUARE
        gap = jnp.where(apart, gap / jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
    pairs = weight[:, None] * weight[None, :]
    pairs = jnp.where(classes[:, None] == classes[None, :], 0.0, pairs)
    return jnp.sum(pairs * jnp.maximum(0.0, margin - gap)), jnp.sum(pairs)


def fdbpl(
    labels: SoftLabels,
    logits: Float[Array, "S B C"],
    regions: Float[Array, "B D"],
    text: Float[Array, "S C D"] | Sequence[Float[Array, "..."]],
    mask: Float[Array, "B"],
    config: LossConfig,
) -> tuple[Float[Array, ""], dict[str, Pair]]:
    """The whole loss: L = L_pos + lam_neg L_neg + lam_dis L_dis + lam_pcd L_pcd.

    `dual=False` with `weight="none"` is KDPL: online when `labels` come from `dense_labels`, offline when from a lookup.

    Args:
      labels: the teacher's labels of the B regions.
      logits: logit scale times cosine with the text features; S = 2 (positive, negative), or 1 without `dual`.
      regions: unit-norm image features.
      text: unit-norm text features of the same prompts, each as `pcd_term` takes them.
      mask: 1 for real regions, 0 for padding.
      config: the switches.

    Returns:
      (scalar loss, {"loss_pos", "loss_neg", "loss_dis", "loss_pcd", "weight": (sum, count)}), terms that are switched
      off left out.
    """
    mask = _full(mask)
    weight = informativeness(labels, config, logits.shape[-1])
    terms = {
        "loss_pos": positive_term(labels, logits[0], weight, mask, config),
        "weight": _masked(weight, mask),
    }
    loss = mean(terms["loss_pos"])
    if config.dual:
        terms["loss_neg"] = negative_term(logits[1], weight, mask)
        terms["loss_dis"] = distance_term(logits[0], logits[1], weight, mask)
        loss = loss + config.lam_neg * mean(terms["loss_neg"])
        loss = loss + config.lam_dis * mean(terms["loss_dis"])
    if config.dual and config.pcd == "hinge":
        terms["loss_pcd"] = pcd_term(
            regions,
            text[0],
            text[1],
            top_class(labels),
            weight * mask,
            margin=config.margin,
            unit=config.pcd_unit,
        )
        loss = loss + config.lam_pcd * mean(terms["loss_pcd"])
    return loss, terms


def coop(logits: Float[Array, "B C"], label: Int[Array, "B"], mask: Float[Array, "B"]) -> Pair:
    """Cross-entropy with the hard labels: CoOp (arXiv 2109.01134)."""
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(_full(logits), label)
    return _masked(entropy, _full(mask))
