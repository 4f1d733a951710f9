#!/usr/bin/env bash
# ESRT-270M from nothing, on two cores and about 10 GB of disk, in about seven hours.
#
# How to run (Debian or a derivative; nothing is installed into the system):
#   pip install -e '.[train,eval,tiny]'
#   recipes/esrt-270m.sh work/
# Stopped? Run it again: what is there is kept, training goes on from its last checkpoint.
set -euo pipefail
work=$(realpath -m "${1:?where to work}")
here=$(dirname "$(realpath "$0")")
mkdir -p "$work/debs" "$work/unpacked"

# 1. Human speech in eleven languages, and parallel text. Licences: CC BY-SA 3.0 (asterisk), GPL-2 (the games).
packages=(
  asterisk-core-sounds-en asterisk-core-sounds-{en,es,fr,it,ru}-g722
  fillets-ng-data fillets-ng-data-cs fillets-ng-data-nl freedroidrpg-data
  tuxpaint-stamps-default
  wesnoth-1.16-{data,httt,tsg,trow,ttb,ei,utbs,did,nr,sof,sotbe,l,thot,low,dm,dw,sota}
)
if [ ! -e "$work/unpacked/done" ]; then
  (cd "$work/debs" && apt-get download "${packages[@]}")
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/unpacked"; done
  touch "$work/unpacked/done"
fi

# 2. Manifests: human.jsonl; tuxpaint.jsonl; synth.jsonl and prompts.jsonl (spoken by espeak-ng: the games' sentences, the prompts');
# and test.jsonl, which training never reads.
# recipes/asterisk-transcripts.jsonl was written by recipes/transcribe_prompts.py.
data=$work/data
prompts=eng,spa,fra,ita,rus
into=$prompts,ces,nld,deu,pol,por,swe
if [ ! -e "$data/prompts.jsonl" ]; then
  esrt data asterisk "$work/unpacked" --transcripts "$here/asterisk-transcripts.jsonl" --target $into --out "$data"
  esrt data fillets "$work/unpacked" --target $into --out "$data"
  esrt data tuxpaint "$work/unpacked" --target $into,ron,cat,bul,ell,dan --out "$data"
  cat "$data"/{asterisk,fillets}.jsonl >"$data/human.jsonl"
  cat "$data"/{asterisk,fillets}-test.jsonl >"$data/test.jsonl"
  esrt data synth "$work/unpacked" --source $prompts,ces,nld --target $into --each 3600 --out "$data"
  esrt data synth "$data/asterisk.jsonl" --source $prompts --target $into --each 325 --name prompts --out "$data"
fi

# 3. Stage 0 (CTC), then the paper's stages I to III; the model is written to $work/run/model.
esrt train esrt-270m --data "$work/data" --run "$work/run"

# 4. Scores on the held-out clips.
(cd "$here/.." && python -m esrt.bench.training score --data "$work/data" --model "$work/run/model")
