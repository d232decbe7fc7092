//! The numbers of the model, laid out so that every inner loop runs over contiguous memory.

use std::sync::{Arc, LazyLock};

/// Independent sums in an inner loop; rows are padded with zeros to a multiple of it.
pub(super) const LANES: usize = 8;
/// Size of the state of the recurrent layer.
pub(super) const STATE: usize = 128;
/// Time steps that a convolution sees.
pub(super) const KERNEL: usize = 3;

const NARROWBAND: &[u8] = include_bytes!("../../../assets/silero/silero8k.bin");
const WIDEBAND: &[u8] = include_bytes!("../../../assets/silero/silero16k.bin");

// the layout below takes exactly what is in the files
const _: () = assert!(NARROWBAND.len() == 4 * count(128) && WIDEBAND.len() == 4 * count(256));

const fn count(window: usize) -> usize {
    let bins = window / 2 + 1;
    let convolutions = (bins * 128 + 128 * 64 + 64 * 64 + 64 * 128) * KERNEL + 128 + 64 + 64 + 128;
    2 * bins * window + convolutions + STATE + 1 + 2 * (4 * STATE * STATE + 4 * STATE)
}

/// A matrix whose rows have a multiple of [`LANES`] elements.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.columns)
    }
}

/// A convolution over time: `weights` has a row per output channel, in it for each of the three time steps all input channels.
#[derive(Debug)]
pub(super) struct Convolution {
    /// Input channels, padded.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// By how many time steps it moves on.
    pub(super) stride: usize,
    pub(super) weights: Matrix,
    pub(super) bias: Vec<f32>,
}

/// All weights for one sampling rate.
#[derive(Debug)]
pub(super) struct Weights {
    /// Samples of one short-time spectrum.
    pub(super) window: usize,
    /// Windowed cosines 1..=window/2 of each bin. The transform is symmetric, so the other half of a window is folded onto this one.
    pub(super) cosines: Matrix,
    /// The same for the sines.
    pub(super) sines: Matrix,
    pub(super) convolutions: [Convolution; 4],
    /// A row per gate and cell: 128 for the input, then 128 for the state.
    pub(super) gates: Matrix,
    pub(super) gate_bias: Vec<f32>,
    pub(super) output: Vec<f32>,
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

    /// Spectral bins.
    pub(super) const fn bins(window: usize) -> usize {
        window / 2 + 1
    }

    /// The order is that of assets/silero/extract.py.
    fn parse(bytes: &[u8], window: usize) -> Self {
        let mut file = File(bytes);
        let bins = Self::bins(window);
        let cosines = folded(&file.take(bins * window), window);
        let sines = folded(&file.take(bins * window), window);
        let convolutions = [(bins, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
            .map(|(inputs, outputs, stride)| convolution(&mut file, inputs, outputs, stride));
        let output = file.take(STATE);
        let output_bias = file.take(1)[0];
        let (state, state_bias) = (file.take(4 * STATE * STATE), file.take(4 * STATE));
        let (input, input_bias) = (file.take(4 * STATE * STATE), file.take(4 * STATE));
        let rows = input.chunks_exact(STATE).zip(state.chunks_exact(STATE));
        let gates =
            Matrix { columns: 2 * STATE, values: rows.flat_map(|(input, state)| [input, state].concat()).collect() };
        let gate_bias = input_bias.iter().zip(&state_bias).map(|(a, b)| a + b).collect();
        Self { window, cosines, sines, convolutions, gates, gate_bias, output, output_bias }
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
}

/// Columns 1..=window/2 of a transform whose column `window - n` is plus or minus column `n`, and whose column 0 is zero.
fn folded(basis: &[f32], window: usize) -> Matrix {
    let half = window / 2;
    Matrix { columns: half, values: basis.chunks_exact(window).flat_map(|row| row[1..=half].to_vec()).collect() }
}

/// From [output][input][time] to [output][time][input, padded].
fn convolution(file: &mut File<'_>, inputs: usize, outputs: usize, stride: usize) -> Convolution {
    let source = file.take(outputs * inputs * KERNEL);
    let bias = file.take(outputs);
    let padded = inputs.next_multiple_of(LANES);
    let columns = KERNEL * padded;
    let mut values = vec![0.0; outputs * columns];
    for (row, source) in values.chunks_exact_mut(columns).zip(source.chunks_exact(inputs * KERNEL)) {
        for (input, times) in source.chunks_exact(KERNEL).enumerate() {
            times.iter().enumerate().for_each(|(time, &weight)| row[time * padded + input] = weight);
        }
    }
    Convolution { inputs: padded, outputs, stride, weights: Matrix { columns, values }, bias }
}
