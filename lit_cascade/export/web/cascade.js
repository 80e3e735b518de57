// The cascade of this folder in a browser: policy.json and the stages' files, run by onnxruntime-web.
'use strict';

const RUNTIME = 'ort.wasm.min.mjs';
const MISSING = `onnxruntime-web is not in this folder. Get it with

npm pack onnxruntime-web

and copy ${RUNTIME}, ort-wasm-simd-threaded.mjs and ort-wasm-simd-threaded.wasm of its folder dist to this page.`;
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int32: Int32Array, int64: BigInt64Array,
};

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

// Decides as run_cascade.py does, for one sample.
class Cascade {
  constructor(policy, ort) {
    this.policy = policy;
    this.ort = ort;
    this.sessions = [];
  }

  static async open() {
    if (location.protocol === 'file:')
      throw Error('A page cannot read files of its own folder from a disk: python -m http.server serves it.');
    const policy = await (await fetched('policy.json')).json();
    if (policy.format !== 'lit-cascade/1') throw Error(`policy.json: the format ${policy.format} is unknown.`);
    const folder = new URL('.', location.href).href;
    let ort;
    try {
      ort = await import(folder + RUNTIME);
    } catch {
      throw Error(MISSING);
    }
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = folder;
    return new Cascade(policy, ort);
  }

  // A stage is fetched when a sample first reaches it.
  session(k) {
    const load = async () => {
      const file = new Uint8Array(await (await fetched(this.policy.stages[k].file)).arrayBuffer());
      return this.ort.InferenceSession.create(file, {executionProviders: ['wasm']});
    };
    return this.sessions[k] ??= load();
  }

  tensor(facts, values, shape) {
    const kind = ARRAYS[facts.dtype];
    if (!kind) throw Error(`arrays of ${facts.dtype} are not supported in this page.`);
    const cast = kind === BigInt64Array ? BigInt : Number;
    return new this.ort.Tensor(facts.dtype, kind.from(values, cast), shape);
  }

  // Prediction, stage, score, and what each stage said; `arrays` gives the arrays of a stage by name.
  async answer(arrays) {
    const {stages, score: kind, combine} = this.policy, ran = [];
    let total = null;
    for (let k = 0; ; k++) {
      const facts = stages[k], found = await (await this.session(k)).run(arrays(facts));
      const prediction = Number(found.prediction.data[0]);
      let score = Math.fround(found.score.data[0]);
      if (kind === 'agreement' && ran.some(one => one.prediction === prediction)) score = Math.fround(score + 1);
      if (combine === 'average') total = Array.from(found.probabilities.data, (p, c) => p + (total ? total[c] : 0));
      // NaN reaches no threshold, so it defers
      const answered = k + 1 === stages.length ||
        score >= Math.fround(facts.threshold) || score < Math.fround(facts.floor);
      ran.push({facts, prediction, score, answered});
      if (answered) return {prediction: total ? total.indexOf(Math.max(...total)) : prediction, stage: k, score, ran};
    }
  }
}

// ---- images: the steps of policy.json, with Pillow's resize (two passes, 22 bits) ----

const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
const FILTERS = {  // support, weight at a distance
  box: [0.5, x => x > -0.5 && x <= 0.5 ? 1 : 0],
  bilinear: [1, x => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, x => Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x))],
  bicubic: [2, x => {
    const d = Math.abs(x);
    return d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
  }],
  lanczos: [3, x => x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0],
};
const ONE = 2 ** 22;

// First source pixel and whole weights of each target pixel along one axis.
function taps(from, to, [support, weight]) {
  const scale = from / to, wide = Math.max(1, scale), reach = support * wide;
  return Array.from({length: to}, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(weight((x - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map(w => Math.trunc(w / sum * ONE + (w / sum < 0 ? -0.5 : 0.5)))];
  });
}

// An image {width, height, data} of three bytes a pixel at another size.
function resized(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  if (!filter) throw Error(`interpolation ${interpolation} is not supported in this page.`);
  const along = (data, from, to, lines, step, line) => {  // one axis; the other has `lines`
    if (from === to) return data;
    const result = new Uint8ClampedArray(to * lines * 3), [outStep, outLine] = step === 3 ? [3, to * 3] : [step, line];
    taps(from, to, filter).forEach(([first, weights], i) => {
      for (let j = 0; j < lines; j++)
        for (let c = 0; c < 3; c++) {
          let sum = ONE / 2, at = j * line + first * step + c;
          for (const w of weights) { sum += data[at] * w; at += step; }
          result[j * outLine + i * outStep + c] = Math.floor(sum / ONE);
        }
    });
    return result;
  };
  const {width: w, height: h, data} = image;
  if (width > w && height < h) {  // the smaller axis first, as Pillow does from version 13 on
    const columns = along(data, h, height, w, w * 3, 3);
    return {width, height, data: along(columns, w, width, height, 3, w * 3)};
  }
  const rows = along(data, w, width, h, 3, w * 3);
  return {width, height, data: along(rows, h, height, width, width * 3, 3)};
}

// The same image in greys, as Pillow weighs them.
function grey({width, height, data}) {
  const greys = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i += 3)
    greys.fill((data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 32768) >> 16, i, i + 3);
  return {width, height, data: greys};
}

const halfEven = x => x % 1 === 0.5 || x % 1 === -0.5 ? 2 * Math.round(x / 2) : Math.round(x);  // as Python

// Bytes (channels, height, width) of an image, by the preprocessing of a stage.
function prepared(image, steps) {
  const [high, wide] = steps.resize, {width: w, height: h} = image;
  let size;
  if (steps.crop_mode === 'squash') size = [high, wide];
  else if (steps.crop_mode !== 'border' && high === wide)
    size = h <= w ? [high, Math.trunc(high * w / h)] : [Math.trunc(wide * h / w), wide];
  else {
    const ratio = (steps.crop_mode === 'border' ? Math.max : Math.min)(h / high, w / wide);
    size = [halfEven(h / ratio), halfEven(w / ratio)];
  }
  const scaled = resized(steps.channels === 1 ? grey(image) : image, size[1], size[0], steps.interpolation);
  const start = (has, wanted) => has < wanted ? -Math.floor((wanted - has) / 2) : halfEven((has - wanted) / 2);
  const top = start(scaled.height, steps.height), left = start(scaled.width, steps.width);
  const fill = (steps.fill || [0, 0, 0]).map(value => halfEven(255 * value));
  const area = steps.height * steps.width, result = new Uint8Array(steps.channels * area);
  for (let y = 0; y < steps.height; y++)
    for (let x = 0; x < steps.width; x++) {
      const v = y + top, u = x + left, inside = v >= 0 && v < scaled.height && u >= 0 && u < scaled.width;
      const at = 3 * (v * scaled.width + u);
      const pixel = inside ? scaled.data.subarray(at, at + 3) : fill;
      const i = y * steps.width + x;
      for (let c = 0; c < steps.channels; c++) result[c * area + i] = pixel[c];
    }
  return result;
}

// Pixels of an image file.
async function decoded(file) {
  const bitmap = await createImageBitmap(file, {colorSpaceConversion: 'none', premultiplyAlpha: 'none'});
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext('2d');
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const data = new Uint8ClampedArray(pixels.length / 4 * 3);
  for (let i = 0, j = 0; i < pixels.length; i += 4) for (let c = 0; c < 3; c++) data[j++] = pixels[i + c];
  return {width: bitmap.width, height: bitmap.height, data};
}

// ---- arrays of a stage, from what the fields hold ----

const numbersIn = text => {
  const words = text.trim().split(/[\s,;[\]]+/).filter(Boolean), values = words.map(Number);
  const strange = words.find((_, i) => Number.isNaN(values[i]) && words[i] !== 'NaN');
  if (strange !== undefined) throw Error(`${strange} is not a number.`);
  return values;
};
const product = sizes => sizes.reduce((a, b) => a * b, 1);

function arraysOf(cascade, facts, given) {
  const steps = facts.preprocessing, arrays = {};
  for (const one of facts.inputs) {
    let values, shape = [1, ...one.shape.slice(1)];
    if (steps.kind === 'image') values = prepared(given.image, steps);
    else if (steps.kind === 'text') {
      const ids = given[steps.tokenizer];
      if (!ids.length) throw Error('give one token id or more.');
      values = one.tokens === 'ids' ? ids : ids.map(() => one.tokens === 'attention_mask' ? 1 : 0);
      shape = [1, ids.length];
    } else {
      values = given[one.name];
      const wanted = product(shape);
      if (values.length !== wanted) throw Error(`${one.name}: expected ${wanted} numbers, got ${values.length}.`);
    }
    arrays[one.name] = cascade.tensor(one, values, shape);
  }
  return arrays;
}

// ---- the page ----

const element = id => document.getElementById(id);
function made(tag, text = '', properties = {}) {
  const one = Object.assign(document.createElement(tag), properties);
  one.append(...[text].flat());
  return one;
}
const short = n => {
  const units = ['', ' k', ' M', ' G', ' T'];
  let i = 0;
  for (; n >= 999.5 && i < 4; i++) n /= 1000;
  return Number(n.toPrecision(3)) + units[i];
};
const figure = x => Number.isFinite(x) ? Number(x.toPrecision(5)).toString() : String(x);
const percent = x => `${(100 * x).toFixed(1)} %`;
const infinite = x => Math.abs(x) > 3.4e38 ? (x > 0 ? '∞' : '−∞') : figure(x);
const bounds = ({threshold, floor}) => infinite(threshold) + (floor < -3.4e38 ? '' : ` (or below ${figure(floor)})`);

class Page {
  constructor(cascade) {
    this.cascade = cascade;
    this.given = {};
    this.sum = {n: 0, deferred: 0, flops: 0};
    const {stages} = cascade.policy, names = stages.map(one => one.name).join(' → ');
    element('title').textContent = document.title = names;
    element('loading').remove();
    const notes = [];
    const seen = new Set();
    for (const facts of stages) {
      const steps = facts.preprocessing;
      if (steps.kind === 'image') this.once(seen, 'image', () => this.imageField());
      else if (steps.kind === 'text') this.once(seen, steps.tokenizer, () => this.idsField(facts));
      else for (const one of facts.inputs) this.once(seen, one.name, () => this.numbersField(one));
    }
    if (seen.has('image'))
      notes.push('Images are resized as Pillow does; the decoder is the browser’s, and turns photographs as their EXIF data say.');
    if (stages.some(one => one.preprocessing.kind === 'text'))
      notes.push('There is no tokenizer in this page: it takes token ids, which run_cascade.py or tokenizers gives.');
    notes.push('FLOPs are those of one sample, as policy.json has them.');
    element('notes').textContent = notes.join(' ');
    if (seen.size > Number(seen.has('image')))
      element('input').append(made('button', 'Answer', {type: 'button', onclick: () => this.run()}));
  }

  once(seen, key, add) {
    if (!seen.has(key)) add();
    seen.add(key);
  }

  imageField() {
    const picker = made('input', '', {type: 'file', accept: 'image/*'});
    const picture = made('img', '', {alt: '', hidden: true}), words = made('span', 'Choose an image, or drop or paste one here');
    const zone = made('label', [picture, words, picker], {className: 'drop'});
    const take = async file => {
      if (!file) return;
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(file);
      picture.hidden = false;
      words.textContent = file.name || 'pasted image';
      await this.guarded(async () => {
        try {
          this.given.image = await decoded(file);
        } catch {
          throw Error(`${file.name}: this is no image that the browser reads.`);
        }
      }) && this.run();
    };
    picker.onchange = () => take(picker.files[0]);
    const over = (event, on) => { event.preventDefault(); zone.classList.toggle('over', on); };
    addEventListener('dragover', event => over(event, true));
    addEventListener('dragleave', event => over(event, false));
    addEventListener('drop', event => { over(event, false); take(event.dataTransfer.files[0]); });
    addEventListener('paste', event => take(event.clipboardData.files[0]));
    element('input').append(zone);
  }

  idsField(facts) {
    this.field(facts.preprocessing.tokenizer, `Token ids by ${facts.preprocessing.tokenizer}`, 'such as 101 7592 102');
  }

  numbersField(one) {
    const sizes = one.shape.slice(1), [h, w] = sizes.slice(-2);
    const area = this.field(one.name, `${one.name}: ${sizes.join(' x ')} numbers`, 'with spaces or commas between');
    if (one.range && sizes.length >= 2 && product(sizes) === h * w && h <= 32 && w <= 32) this.pad(area, h, w, one.range);
  }

  field(name, label, hint) {
    const area = made('textarea', '', {placeholder: hint, spellcheck: false});
    element('input').append(made('label', [label, area]));
    Object.defineProperty(this.given, name, {get: () => numbersIn(area.value), enumerable: true});
    return area;
  }

  // A grid to draw on, in the range that the samples of the export had.
  pad(area, h, w, [low, high]) {
    const canvas = made('canvas', '', {className: 'pad', width: w, height: h, ariaLabel: 'Draw here'});
    const context = canvas.getContext('2d'), cells = new Float64Array(h * w);
    const clear = () => { cells.fill(low); area.value = ''; paint(); };
    const paint = () => cells.forEach((value, i) => {
      const grey = 255 * (value - low) / (high - low || 1);
      context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
      context.fillRect(i % w, Math.floor(i / w), 1, 1);
    });
    const dab = event => {
      if (!event.buttons) return;
      const box = canvas.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * w, y = (event.clientY - box.top) / box.height * h;
      cells.forEach((value, i) => {
        const distance = Math.hypot(i % w + 0.5 - x, Math.floor(i / w) + 0.5 - y);
        const ink = low + (high - low) * Math.min(1, Math.max(0, 1.6 - distance));
        cells[i] = Math.max(value, ink);
      });
      paint();
      area.value = Array.from(cells, value => Math.round(value * 100) / 100).join(' ');
    };
    canvas.onpointerdown = canvas.onpointermove = dab;
    canvas.onpointerup = () => this.run();
    area.oninput = () => {
      try {
        const values = numbersIn(area.value);
        if (values.length === h * w) { cells.set(values); paint(); }
      } catch { /* said when it is to be answered */ }
    };
    clear();
    area.parentElement.before(made('b', 'Draw'), canvas, made('button', 'Clear', {type: 'button', className: 'plain', onclick: clear}));
  }

  // Whether some work was done; what stopped it is shown.
  async guarded(work) {
    element('error').textContent = '';
    try {
      await work();
      return true;
    } catch (error) {
      element('error').textContent = error.message;
      element('result').hidden = true;
      return false;
    }
  }

  async run() {
    const number = this.latest = (this.latest ?? 0) + 1;
    await this.guarded(async () => {
      const found = await this.cascade.answer(facts => arraysOf(this.cascade, facts, this.given));
      if (number === this.latest) this.show(found);  // not if another input came meanwhile
    });
  }

  show({prediction, stage, ran}) {
    const {policy} = this.cascade, {stages} = policy;
    const last = stages[stages.length - 1], spent = ran.reduce((sum, one) => sum + one.facts.flops, 0);
    element('answer').textContent = (policy.readable ?? policy.classes)?.[prediction] ?? `class ${prediction}`;
    element('by').textContent = `Answered by ${stages[stage].name}` + (policy.combine === 'average' && stage ? ', averaged with the stages before' : '');
    const top = {max_softmax: 1, margin: 1, agreement: 2}[policy.score];
    element('stages').replaceChildren(...ran.map(({facts, score, answered}, k) => {
      const decides = k + 1 < stages.length;
      const rule = decides ? `threshold ${bounds(facts)}` : 'the last stage always answers';
      const row = [
        made('div', [
          made('b', facts.name),
          made('span', answered ? 'answered' : 'deferred', {className: answered ? 'answered' : 'faint'}),
        ], {className: 'row'}),
        made('div', `score ${figure(score)}, ${rule}`, {className: 'figures'}),
      ];
      if (!top || !(score >= 0)) return made('li', row);
      const bar = made('div', made('i'), {className: 'bar'});
      const at = value => `${100 * Math.min(1, Math.max(0, value / top))}%`;
      bar.firstChild.style.width = at(score);
      if (decides) {
        bar.append(made('u'));
        bar.lastChild.style.left = at(facts.threshold);
      }
      return made('li', [...row, bar]);
    }));
    const less = spent < last.flops ? `${(last.flops / spent).toFixed(1)} times less` : `${percent(spent / last.flops - 1)} more`;
    element('cost').textContent = `Cost: ${short(spent)} FLOPs, ${less} than ${last.name} alone (${short(last.flops)}).`;
    const sum = this.sum;
    sum.n += 1; sum.flops += spent; sum.deferred += stage > 0;
    element('sofar').textContent = `So far: ${sum.n} ${sum.n === 1 ? 'input' : 'inputs'}, ${sum.deferred} deferred, ${percent(sum.flops / sum.n / last.flops)} of the cost of ${last.name} alone.`;
    element('result').hidden = false;
  }
}

const opened = Cascade.open();
opened.then(cascade => new Page(cascade)).catch(error => {
  element('input').hidden = true;
  element('error').textContent = error.message;
});
