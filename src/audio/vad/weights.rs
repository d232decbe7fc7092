//! The numbers of the model, laid out in the order in which they are used: the outputs of a layer lie side by side, in groups that fit the
//! vector registers, so that one input is multiplied with a whole group at once and nothing has to be summed across lanes.

use std::sync::{Arc, LazyLock};

/// Size of the state of the recurrent layer.
pub(super) const STATE: usize = 128;
/// Time steps that a convolution sees.
const KERNEL: usize = 3;

const NARROWBAND: &[u8] = include_bytes!("../../../assets/silero/silero8k.bin");
const WIDEBAND: &[u8] = include_bytes!("../../../assets/silero/silero16k.bin");

// the layout below takes exactly what is in the files
const _: () = assert!(NARROWBAND.len() == 4 * count(128) && WIDEBAND.len() == 4 * count(256));

const fn count(window: usize) -> usize {
    let bins = window / 2 + 1;
    let convolutions = (bins * 128 + 128 * 64 + 64 * 64 + 64 * 128) * KERNEL + 128 + 64 + 64 + 128;
    2 * bins * window + convolutions + STATE + 1 + 2 * (4 * STATE * STATE + 4 * STATE)
}

/// A layer that is a matrix: for each group of `LANES` outputs, and in it for each input, a weight for each output of the group.
#[derive(Debug)]
pub(super) struct Dense<const LANES: usize> {
    pub(super) inputs: usize,
    pub(super) weights: Vec<[f32; LANES]>,
    pub(super) bias: Vec<[f32; LANES]>,
}

impl<const LANES: usize> Dense<LANES> {
    /// From the weight for each output and input. There are `bias.len()` outputs, a multiple of `LANES`.
    fn new(inputs: usize, bias: &[f32], weight: impl Fn(usize, usize) -> f32) -> Self {
        let group = |group: usize, input| std::array::from_fn(|lane| weight(group * LANES + lane, input));
        let groups = bias.len() / LANES;
        let weights = (0..groups).flat_map(|at| (0..inputs).map(move |input| (at, input)));
        Self {
            inputs,
            weights: weights.map(|(at, input)| group(at, input)).collect(),
            bias: bias.as_chunks().0.to_vec(),
        }
    }
}

/// All weights for one sampling rate. A layer has the fewer lanes the more time steps it gives: their product is what the
/// registers hold.
#[derive(Debug)]
pub(super) struct Weights {
    /// Samples of one short-time spectrum.
    pub(super) window: usize,
    /// Windowed cosines 1..=window/2 of each bin but the last. The transform is symmetric: the other half of a window is folded onto this one.
    pub(super) cosines: Dense<16>,
    /// The same for the sines.
    pub(super) sines: Dense<16>,
    /// Windowed cosines of the last bin, which has no sines.
    pub(super) nyquist: Vec<f32>,
    /// Gives 4 time steps of 128 values.
    pub(super) first: Dense<16>,
    /// Gives 2 time steps of 64 values.
    pub(super) second: Dense<32>,
    /// Gives 1 time step of 64 values; of the three it sees the first does not exist and is left out.
    pub(super) third: Dense<64>,
    /// Gives 128 values from a single time step.
    pub(super) fourth: Dense<64>,
    /// A row per gate and cell: 128 for the input, then 128 for the state.
    pub(super) gates: Dense<64>,
    pub(super) output: [f32; STATE],
    pub(super) output_bias: f32,
}

impl Weights {
    /// For 8 kHz; read from the program once, then shared.
    pub(super) fn narrowband() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Weights>> = LazyLock::new(|| Arc::new(Weights::parse(NARROWBAND, 128)));
        Arc::clone(&SHARED)
    }

    /// For 16 kHz.
    pub(super) fn wideband() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Weights>> = LazyLock::new(|| Arc::new(Weights::parse(WIDEBAND, 256)));
        Arc::clone(&SHARED)
    }

    /// The order is that of assets/silero/extract.py.
    fn parse(bytes: &[u8], window: usize) -> Self {
        let mut file = File(bytes);
        let (half, bins) = (window / 2, window / 2 + 1);
        let (cosines, sines) = (file.take(bins * window), file.take(bins * window));
        let folded = |basis: &[f32]| Dense::new(half, &vec![0.0; half], |bin, n| basis[bin * window + n + 1]);
        Self {
            window,
            cosines: folded(&cosines),
            sines: folded(&sines),
            nyquist: cosines[half * window + 1..][..half].to_vec(),
            first: convolution(&mut file, bins, 128, 0..KERNEL),
            second: convolution(&mut file, 128, 64, 0..KERNEL),
            third: convolution(&mut file, 64, 64, 1..KERNEL),
            fourth: convolution(&mut file, 64, 128, 1..2),
            output: file.array(),
            output_bias: file.array::<1>()[0],
            gates: gates(&mut file),
        }
    }
}

/// The rest of a weights file.
struct File<'a>(&'a [u8]);

impl File<'_> {
    /// The next `count` numbers; that they are there is checked when this is compiled.
    fn take(&mut self, count: usize) -> Vec<f32> {
        let (now, later) = self.0.split_at(count * 4);
        self.0 = later;
        now.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    fn array<const N: usize>(&mut self) -> [f32; N] {
        let mut array = [0.0; N];
        array.copy_from_slice(&self.take(N));
        array
    }
}

/// From [output][input][time] to inputs that lie step after step, of which only those in `times` exist.
fn convolution<const LANES: usize>(
    file: &mut File<'_>,
    inputs: usize,
    outputs: usize,
    times: std::ops::Range<usize>,
) -> Dense<LANES> {
    let source = file.take(outputs * inputs * KERNEL);
    let bias = file.take(outputs);
    Dense::new(inputs * times.len(), &bias, |output, n| {
        source[(output * inputs + n % inputs) * KERNEL + times.start + n / inputs]
    })
}

fn gates(file: &mut File<'_>) -> Dense<64> {
    let (state, state_bias) = (file.take(4 * STATE * STATE), file.take(4 * STATE));
    let (input, input_bias) = (file.take(4 * STATE * STATE), file.take(4 * STATE));
    let bias: Vec<f32> = input_bias.iter().zip(&state_bias).map(|(a, b)| a + b).collect();
    Dense::new(
        2 * STATE,
        &bias,
        |row, n| {
            if n < STATE { input[row * STATE + n] } else { state[row * STATE + n - STATE] }
        },
    )
}
