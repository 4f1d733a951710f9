#!/usr/bin/env bash
# Every page of docs/benchmarks in small: the same commands with a few clips, steps and rounds each, and a page of its own
# beside the others in the folder that is named. The figures show that all of it runs, not how good anything is.
#
# How to run (Debian or a derivative; nothing is installed into the system):
#   make bench-small            which is
#   recipes/bench-small.sh build/bench-small
# Stopped? Run it again: what was prepared is kept.
set -euo pipefail
work=$(realpath -m "${1:?where to work}")
cd "$(dirname "$(realpath "$0")")/.."
data=$work/data pages=$work/benchmarks began=$SECONDS
mkdir -p "$work/debs" "$work/unpacked" "$pages"
cp docs/benchmarks/*.md "$pages"

# 1. Human speech in three languages (asterisk's prompts, CC BY-SA 3.0), and the same sentences spoken by espeak-ng.
if [ ! -e "$data/revoiced.jsonl" ]; then
  [ "$(id -u)" != 0 ] || apt-get -qq update || true
  (cd "$work/debs" && apt-get -o APT::Sandbox::User=root download asterisk-core-sounds-en asterisk-core-sounds-{en,fr,it}-g722)
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/unpacked"; done
  esrt data asterisk "$work/unpacked" --transcripts recipes/asterisk-transcripts.jsonl \
    --source eng,fra,ita --target eng,fra,ita,deu --out "$work/all"
  mkdir -p "$data"
  awk 'NR % 25 == 0' "$work/all/asterisk.jsonl" >"$data/human.jsonl"
  cp "$work/all/asterisk.jsonl" "$data/asterisk.jsonl"
  awk 'NR % 10 == 0' "$work/all/asterisk-test.jsonl" >"$data/test.jsonl"
  mkdir -p "$work/one"  # a clip alone, for what waits for a slow link
  grep -m 1 '"src": "fra", "tgt": "eng"' "$data/test.jsonl" >"$work/one/test.jsonl"
  for name in synth tuxpaint prompts pico festival kokoro; do
    [ -e "$data/$name.jsonl" ] ||
      esrt data synth "$data/human.jsonl" --source eng,fra,ita --target eng,fra,ita,deu --each 12 --name $name --out "$data"
  done
  esrt data revoice "$data/human.jsonl" --name revoiced --out "$data"
fi

# 2. Models that are there to be measured, not to be good: a whisperM2M, which caches the clips' features first, the same
# pruned, and a drafter for ESRT-270M.
[ -d "$work/m2m/model" ] || esrt m2m train m2m-base --data "$data" --run "$work/m2m" --steps 4,4
[ -d "$work/small/model" ] || esrt m2m prune "$work/m2m/model" --data "$data" --run "$work/small" --steps 4,4 --clips 1
[ -d "$work/draft/model" ] || esrt draft make ESRT-270M --to eng,deu --data "$data" --manifest human --run "$work/draft" --steps 4

# CTranslate2, which the device's half is measured beside.
[ -d "$work/ctranslate2" ] || python -m pip --disable-pip-version-check install --quiet --no-deps --target "$work/ctranslate2" ctranslate2
export PYTHONPATH=$work/ctranslate2

# 3. The pages.
bench() {  # part section options
  echo "== $1 $2 ($((SECONDS - began)) s)" >&2
  esrt bench "$1" "$2" --page "$pages/$1.md" "${@:3}" >/dev/null
}
bench edge speed --rounds 2
bench edge memory
bench edge install
bench edge quality --data "$data" --clips 2
bench edge long --minutes 1
bench cloud speed --clients 8 --requests 8 --rounds 1 --engines transformers
bench cloud fork --targets 8 --rounds 1 --engines transformers
bench cloud burst --capacity 4
bench cloud load --clients 2 --requests 6 --rate 1
bench training throughput --data "$data" --steps 2
bench training memory --data "$data" --steps 20
bench training expected --data "$data" --steps 1
bench training score --data "$data" --clips 2
bench training voices --data "$data" --manifest test --clips 2
bench training beams --data "$data" --clips 1
bench training speakers --data "$data" --clips 1
bench training starts --data "$data" --seconds 5
bench training ablation --data "$data" --share 0.001
bench kvspn all --data "$data" --model "$work/m2m/model" --small "$work/small/model" --clips 1 --rounds 1 --each 2
bench ugsd translation --data "$data" --draft "$work/draft/model" --clips 1 --to eng
bench ugsd latency --data "$work/one" --draft "$work/draft/model" --clips 1 --to eng
bench bandwidth bytes --clips 1
bench bandwidth quality --clips 1
esrt audit --data "$data" --manifest asterisk --test test --out "$pages/privacy.md" --work "$work/audit" \
  --speakers 2 --scored 2 --each 2 --epochs 2 --heard 2 --codec audio,bf16,rvq32 >/dev/null
echo "pages in $pages, after $((SECONDS - began)) s" >&2
