"""Every setting of a run: its type, default, meaning and rule. Recipes start from these."""

from binsr_jax.fields import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    FINITE,
    MILLION,
    PART,
    UINT32,
    Section,
    declared,
    field,
    one_of,
    section,
)

_UNITS = (
    *("residual", "float", "bnn", "bireal", "reactnet", "bbcu_v2", "bbcu", "irnet", "btm", "bam"),
    *("attention", "base", "rescale_pre", "rescale_post", "single", "dual", "both"),
)
_BACKBONE = one_of("edsr", "srresnet", "dncnn", "rrdbnet", "srvgg")
_TASK = one_of("sr", "denoise", "denoise_grey", "jpeg", "jpeg_colour", "jpeg_444", "photo", "real")
_ATTENTION = one_of("none", "se", "spatial", "pixel", "global")
_PRECISION = one_of("float", "binary")


class ModelConfig(Section):
    """The network."""

    name: str = field("edsr", "the backbone", _BACKBONE)
    unit: str = field("attention", "the unit of the body", one_of(*_UNITS))
    features: int = field(64, "channels of the body", ABOVE_0)
    blocks: int = field(
        16, "blocks of two convolutions each; for dncnn: convolutions of the body", ABOVE_0
    )
    residual_attention: str = field(
        "none", "attention on the residual branch of a unit", _ATTENTION
    )
    binary_attention: str = field("none", "attention on the binary branch of a unit", _ATTENTION)
    attention_hidden: int = field(4, "hidden features of squeeze-and-excitation", ABOVE_0)
    surrogate: str = field(
        "parabola",
        "the surrogate gradient of the activations' sign",
        one_of("parabola", "clip", "tanh"),
    )
    weight_scale: str = field(
        "mean",
        "the scale of binary weights, per output channel",
        one_of("mean", "learnable", "libra"),
    )
    progressive: str = field(
        "none",
        "in training, the body's activations become signs all together or unit by unit",
        one_of("none", "together", "in_turn"),
    )
    progressive_until: float = field(
        0.5, "the part of the training after which all of them are signs", PART
    )
    head: str = field("float", "the first convolution", _PRECISION)
    head_activation: str = field(
        "leaky_relu",
        "the activation after it (the slope of leaky_relu is 0.1)",
        one_of("none", "relu", "leaky_relu"),
    )
    body_end: str = field(
        "unit",
        "the end of edsr's body: one more unit, or a float convolution",
        one_of("unit", "conv"),
    )
    upsampler: str = field(
        "binary",
        "the upsampler; direct (edsr only): none, the tail makes all pixels of an input pixel",
        one_of("float", "binary", "direct"),
    )
    hr_conv: str = field(
        "none", "for srresnet: a convolution after the upsampler", one_of("none", "float", "binary")
    )
    tail: str = field("float", "the last convolution", _PRECISION)
    bias: str = field("float", "which convolutions have biases", one_of("none", "float", "all"))
    amplification: float = field(
        130.0, "the factor k of the input; the output is divided by it", MILLION
    )
    residual_scale: float = field(
        1.0, "the factor of the float unit's branch (0.1 in the large EDSR)", FINITE
    )
    growth: int = field(32, "for rrdbnet: channels that each convolution of a block adds", ABOVE_0)
    unshuffle: bool = field(
        True, "for rrdbnet: below x4, pixels of the input become channels first"
    )
    activation: str = field(
        "prelu",
        "for srvgg: the activation (the slope of leaky_relu is 0.1)",
        one_of("prelu", "relu", "leaky_relu"),
    )
    image_skip: str = field(
        "none", "bilinear adds the enlarged input to the output", one_of("none", "bilinear")
    )


class DataConfig(Section):
    """The training images."""

    source: str = field(
        "samples",
        "where training images come from: tfds is DIV2K, samples come with the package",
        one_of("tfds", "folder", "zip", "samples"),
    )
    dir: str = field(
        "",
        "for folder: the folder of HR (and LR) images; for zip: the zip of HR images, or a folder "
        "in it, IMAGES.zip/FOLDER; for tfds: its data_dir",
    )
    sources: tuple[str, ...] = field(
        (), "several sources instead, mixed by weight: ('folder:DIR=3', 'samples=1')"
    )
    skip_broken: bool = field(False, "leave out images that cannot be read, instead of stopping")
    patch: int = field(64, "side of an HR training patch, a multiple of the scale")
    sigma: tuple[float, ...] = field(
        (0.0, 75.0),
        "denoise, photo: range of the noise's standard deviation, in units of 0..255",
        elements=(float, int),
    )
    quality: tuple[int, ...] = field(
        (0, 50),
        "jpeg, jpeg_colour, photo: range of the JPEG quality, ends included",
        elements=(int,),
    )
    subsampling: tuple[str, ...] = field(
        ("4:2:0", "4:4:4"), "jpeg_colour, photo: the subsamplings of chroma, drawn evenly"
    )
    grey: float = field(0.1, "jpeg_colour: share of patches that are grey")
    blur: tuple[float, ...] = field(
        (0.0, 0.5),
        "photo: range of the blur's standard deviation, in LR pixels",
        elements=(float, int),
    )
    twice: float = field(
        0.3, "photo: share of the degraded patches that are reduced and compressed twice"
    )
    clean: float = field(0.2, "photo: share of patches that are only reduced, by the bicubic")
    taught: int = field(
        0,
        "with train.teacher: the number of pairs whose targets the teacher makes once, before the "
        "training, and which cache_dir keeps; 0: the teacher runs in every step",
        AT_LEAST_0,
    )
    window: int = field(
        192, "side of the targets of these pairs, from which patches are cut", AT_LEAST_1
    )
    flip: bool = field(True, "random horizontal flips")
    rotate: bool = field(True, "random rotations by 90 degrees")
    workers: int = field(
        0, "processes that prepare batches; 0 prepares them in a thread", AT_LEAST_0
    )
    cache_dir: str = field("", "the folder of decoded images; empty: ~/.cache/binsr-jax")


class RealConfig(Section):
    """The task real: Real-ESRGAN's degradation in two rounds. Pairs are ranges, drawn evenly."""

    margin: int = field(
        144, "a degraded patch is so many pixels larger a side; the pair is cut out at random"
    )
    sharpen: float = field(0.5, "strength of the unsharp mask on images and targets; 0: none")
    sizes: tuple[int, ...] = field((7, 21), "range of the sides of kernels, odd", elements=(int,))
    blur_1: float = field(1.0, "round 1: share of patches that are blurred")
    blur_2: float = field(0.8, "round 2: share of patches that are blurred")
    kernels_1: tuple[float, ...] = field(
        (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        "round 1: shares of (an)isotropic Gaussian, generalised and plateau kernels",
        elements=(float, int),
    )
    kernels_2: tuple[float, ...] = field(
        (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        "round 2: shares of (an)isotropic Gaussian, generalised and plateau kernels",
        elements=(float, int),
    )
    sigma_1: tuple[float, ...] = field(
        (0.2, 3.0), "round 1: standard deviation of kernels, in pixels", elements=(float, int)
    )
    sigma_2: tuple[float, ...] = field(
        (0.2, 1.5), "round 2: standard deviation of kernels, in pixels", elements=(float, int)
    )
    generalised_1: tuple[float, ...] = field(
        (0.5, 4.0), "round 1: exponent of generalised Gaussian kernels", elements=(float, int)
    )
    generalised_2: tuple[float, ...] = field(
        (0.5, 4.0), "round 2: exponent of generalised Gaussian kernels", elements=(float, int)
    )
    plateau_1: tuple[float, ...] = field(
        (1.0, 2.0), "round 1: exponent of plateau-shaped kernels", elements=(float, int)
    )
    plateau_2: tuple[float, ...] = field(
        (1.0, 2.0), "round 2: exponent of plateau-shaped kernels", elements=(float, int)
    )
    sinc_1: float = field(0.1, "round 1: share of kernels that are sinc filters")
    sinc_2: float = field(0.1, "round 2: share of kernels that are sinc filters")
    cutoff_small: tuple[float, ...] = field(
        (1 / 3, 1.0),
        "cutoff of sinc filters below 13 pixels, in units of pi",
        elements=(float, int),
    )
    cutoff_large: tuple[float, ...] = field(
        (1 / 5, 1.0),
        "cutoff of sinc filters from 13 pixels on, in units of pi",
        elements=(float, int),
    )
    resize_1: tuple[float, ...] = field(
        (0.2, 0.7, 0.1),
        "round 1: shares of patches that are enlarged, reduced and left as they are",
        elements=(float, int),
    )
    resize_2: tuple[float, ...] = field(
        (0.3, 0.4, 0.3),
        "round 2: shares of patches that are enlarged, reduced and left as they are",
        elements=(float, int),
    )
    factor_1: tuple[float, ...] = field(
        (0.15, 1.5), "round 1: smallest and largest factor of the size", elements=(float, int)
    )
    factor_2: tuple[float, ...] = field(
        (0.3, 1.2), "round 2: smallest and largest factor of the size", elements=(float, int)
    )
    gaussian_1: float = field(
        0.5, "round 1: share of patches with Gaussian noise; the others have Poisson noise"
    )
    gaussian_2: float = field(
        0.5, "round 2: share of patches with Gaussian noise; the others have Poisson noise"
    )
    noise_1: tuple[float, ...] = field(
        (1.0, 30.0),
        "round 1: standard deviation of Gaussian noise, in units of 0..255",
        elements=(float, int),
    )
    noise_2: tuple[float, ...] = field(
        (1.0, 25.0),
        "round 2: standard deviation of Gaussian noise, in units of 0..255",
        elements=(float, int),
    )
    poisson_1: tuple[float, ...] = field(
        (0.05, 3.0), "round 1: strength of Poisson noise", elements=(float, int)
    )
    poisson_2: tuple[float, ...] = field(
        (0.05, 2.5), "round 2: strength of Poisson noise", elements=(float, int)
    )
    grey_1: float = field(0.4, "round 1: share of patches whose noise is grey")
    grey_2: float = field(0.4, "round 2: share of patches whose noise is grey")
    quality_1: tuple[float, ...] = field(
        (30.0, 95.0), "round 1: JPEG quality", elements=(float, int)
    )
    quality_2: tuple[float, ...] = field(
        (30.0, 95.0), "round 2: JPEG quality", elements=(float, int)
    )
    final_sinc: float = field(0.8, "share of patches that a sinc filter gives ringing at the end")
    final_cutoff: tuple[float, ...] = field(
        (1 / 3, 1.0), "cutoff of that sinc filter, in units of pi", elements=(float, int)
    )


class TrainConfig(Section):
    """The training."""

    steps: int = field(1000, "updates of the parameters", AT_LEAST_1)
    batch: int = field(16, "patches in a step, on all devices and processes together", AT_LEAST_1)
    accumulate: int = field(
        1, "number of parts in which a batch is processed, one after the other", AT_LEAST_1
    )
    compute: str = field(
        "float32", "the type in which convolutions multiply", one_of("float32", "bfloat16")
    )
    remat: bool = field(
        False, "on accelerators: save only the input of a unit, and recompute the rest backward"
    )
    scan: bool = field(False, "on accelerators: run equal units in a loop, compiled once")
    loss: str = field("l1", "the penalty of the error", one_of("l1", "l2", "charbonnier", "psnr"))
    loss_epsilon: float = field(
        1e-3, "for charbonnier and psnr: its square is added to the squared error", ABOVE_0
    )
    luma_weight: float = field(
        0.0, "weight of the same loss on luma alone, added to the loss", AT_LEAST_0
    )
    ssim_weight: float = field(0.0, "weight of 1 - SSIM, added to the loss", AT_LEAST_0)
    pixel_weight: float = field(
        1.0, "weight of the loss beside perceptual and adversarial losses", AT_LEAST_0
    )
    perceptual_weight: float = field(
        0.0, "weight of the perceptual loss, the distance in features of VGG19", AT_LEAST_0
    )
    perceptual_file: str = field(
        "", "the weights of VGG19: torchvision's vgg19, .pth or .safetensors"
    )
    perceptual_layers: tuple[str, ...] = field(
        ("conv5_4=1",), "the layers of VGG19, before their activation, and the weight of each"
    )
    gan_weight: float = field(
        0.0, "weight of the adversarial loss; 0: no discriminator", AT_LEAST_0
    )
    gan_loss: str = field("relativistic", "the adversarial loss", one_of("vanilla", "relativistic"))
    discriminator: str = field(
        "unet",
        "the discriminator: unet has spectral normalisation, vgg batch normalisation",
        one_of("unet", "vgg"),
    )
    discriminator_features: int = field(
        64, "channels of the discriminator's first layer", AT_LEAST_1
    )
    discriminator_rate: float = field(
        1e-4, "the discriminator's highest learning rate; its schedule is the network's", ABOVE_0
    )
    init_from: str = field(
        "",
        "a work dir, a trainable file (.safetensors), a model file or a name of binsr models; a "
        "new run starts from its parameters, where they fit",
    )
    teacher: str = field(
        "",
        "a work dir, a trainable file, a model file or a name of binsr models; the output of its "
        "network is a second target of the loss (see data.taught)",
    )
    teacher_weight: float = field(1.0, "weight of the teacher's target in the loss", AT_LEAST_0)
    floats: str = field(
        "float32",
        "round floats in the network as binsr pack --floats does; gradients pass straight through",
        one_of("float32", "float16", "int8"),
    )
    sparsity: float = field(
        0.0,
        "weight of the mean size of branch factors and weight scales, added to the loss; it makes "
        "units and channels small that binsr prune then removes",
        AT_LEAST_0,
    )
    learning_rate: float = field(1e-4, "the highest learning rate", ABOVE_0)
    schedule: str = field(
        "multistep", "the schedule of the learning rate", one_of("constant", "multistep", "cosine")
    )
    warmup: int = field(0, "steps of linear warm-up, at most half of all steps", AT_LEAST_0)
    milestones: tuple[int, ...] = field(
        (200_000,),
        "for multistep: the steps at which the learning rate is multiplied by decay",
        elements=(int,),
    )
    decay: float = field(0.5, "for multistep: the factor at each milestone", ABOVE_0)
    final_rate: float = field(0.0, "for cosine: the learning rate at the last step", AT_LEAST_0)
    optimizer: str = field(
        "adam",
        "what updates the parameters: adam, or muon, which makes the updates of large kernels "
        "orthogonal and leaves the rest to Adam",
        one_of("adam", "muon"),
    )
    muon_rate: float = field(
        0.8, "for muon: the size of a kernel's update (RMS), in learning rates", ABOVE_0
    )
    muon_beta: float = field(0.95, "for muon: the decay of the mean of gradients", BELOW_1)
    beta1: float = field(0.9, "Adam's beta 1", BELOW_1)
    beta2: float = field(0.99, "Adam's beta 2", BELOW_1)
    epsilon: float = field(1e-8, "Adam's epsilon", ABOVE_0)
    clip_norm: float = field(
        0.0, "the largest global norm of the gradients; 0: they are not clipped", AT_LEAST_0
    )
    clip_weights: bool = field(False, "clip latent binary weights to -1..1 after each update")
    ema: float = field(
        0.0,
        "decay of the moving average of the parameters, which is scored and packed; 0: none",
        BELOW_1,
    )
    log_every: int = field(50, "steps between log lines", AT_LEAST_1)
    checkpoint_every: int = field(500, "steps between checkpoints", AT_LEAST_1)
    keep: int = field(
        2, "how many of the latest checkpoints are kept, beside the best one", AT_LEAST_1
    )


class EvalConfig(Section):
    """The validation, and what ``binsr evaluate`` scores by default."""

    every: int = field(
        1000, "steps between validations; the last step is always validated", AT_LEAST_1
    )
    sets: tuple[str, ...] = field(
        ("samples",), "benchmark sets to score; samples come with the package"
    )
    levels: tuple[int, ...] = field(
        (),
        "sigmas or JPEG qualities to score at; empty: those of the task's papers",
        elements=(int,),
    )
    data_dir: str = field("", "folder of the other sets; empty: $BINSR_DATA")


class Config(Section):
    """All settings of a run; see ``Section`` for what a config is at run time."""

    seed: int = field(0, "the seed of the first parameters and of the input sequence", UINT32)
    task: str = field("sr", "what the network restores", _TASK)
    scale: int = field(2, "the upscaling factor; 1 if the task does not enlarge")
    devices: int = field(0, "how many devices share a batch; 0: all", AT_LEAST_0)
    parallel: str = field(
        "mesh",
        "how devices share a batch: jax.jit over a mesh, or jax.pmap",
        one_of("mesh", "pmap"),
    )
    model: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    real: RealConfig = section(RealConfig)
    train: TrainConfig = section(TrainConfig)
    eval: EvalConfig = section(EvalConfig)


FIELDS = declared(Config)
